"""What flows through a reading of a program: float formats, carriers."""
