"""What a report says and shows: figures with their intervals, progress, and the pieces of its page."""
