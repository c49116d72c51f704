"""What runs any attack on any model, and knows no attack."""
