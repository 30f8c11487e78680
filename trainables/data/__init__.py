"""Images and labels: sources decode them, splits divide and store them, views augment them."""
