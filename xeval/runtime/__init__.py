"""What every command needs and no result depends on: files, locks, signals, progress, memory, distributed processes."""
