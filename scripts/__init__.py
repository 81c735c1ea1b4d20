"""Programs beside the packages; none is installed."""
