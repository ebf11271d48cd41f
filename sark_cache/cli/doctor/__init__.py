"""`sark-cache doctor`: examines the installation, the settings and the server."""
