"""What an evaluation says: means with their intervals, who is ahead of whom, and what is within noise."""
