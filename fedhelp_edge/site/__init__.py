"""What one site keeps and does."""
