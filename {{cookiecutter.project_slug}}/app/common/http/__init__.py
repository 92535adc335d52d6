"""What happens to a request between the server and the application."""
