"""What stands between a socket and a handler: calls, their fields and errors, turns, models."""
