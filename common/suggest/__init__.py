"""From a folder of labelled images, and a few real steps on this machine, to a configuration."""
