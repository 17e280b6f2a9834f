"""The plugin without Qt: a document, the live model and their controllers."""
