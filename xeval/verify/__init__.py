"""``xeval verify``: the numbers of one's own checkpoint beside the same numbers from other libraries."""
