"""Foundation models, asked once about public images."""
