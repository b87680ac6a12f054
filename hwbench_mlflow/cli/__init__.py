"""The ``hwbench`` command. Wiring only, one file a command group; heavy imports happen inside commands."""
