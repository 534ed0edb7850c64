"""What scores say about methods: intervals, exact tests, effect sizes and agreement. Arrays in, numbers out."""
