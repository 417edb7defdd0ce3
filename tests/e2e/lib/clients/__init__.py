"""The clients that a site really has, each with a store of its own and Larder as its mirror of docker.io."""
