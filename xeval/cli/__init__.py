"""The command line parses, calls and prints. Only this room prints results and decides exit codes."""
