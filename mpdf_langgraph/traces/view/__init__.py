"""The page: traces as one HTML file."""
