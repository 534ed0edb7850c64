"""What every command needs but no result depends on: files, locks, signals, progress, memory, distributed processes."""
