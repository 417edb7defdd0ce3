"""What the end-to-end tests are told with: an upstream, a mirror, and the clients that pull through it."""
