"""Images on their way in: fetched under guard, decoded within limits."""
