"""What travels: commands and results, the dialects that clients speak, server-sent events."""
