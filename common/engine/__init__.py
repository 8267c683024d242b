"""From a network to arithmetic: graphs, optimizers, devices. The only room that knows the framework's inner members."""
