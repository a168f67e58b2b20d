"""Files that a registry names, fetched and checked."""
