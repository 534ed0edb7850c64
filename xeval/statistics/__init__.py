"""These modules take arrays and say what scores tell of methods: intervals, exact tests, effect sizes, agreement."""
