"""Results as plain data, as text for a terminal, and as one HTML file. Nothing below imports this room."""
