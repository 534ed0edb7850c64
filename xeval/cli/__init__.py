"""The command line: parse, call, print. Only this room prints results and decides exit codes."""
