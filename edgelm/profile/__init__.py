"""Device profiles: how a machine runs models of a shape best, as `edgelm tune` found; taken by itself when one is loaded."""
