"""``xeval verify`` compares the numbers of the user's checkpoint with the same numbers from other libraries."""
