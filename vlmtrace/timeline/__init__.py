"""What happened: the frozen Recording, its spans, and the names they carry. Standard library only."""
