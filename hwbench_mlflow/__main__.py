"""``python -m hwbench_mlflow`` is the ``hwbench`` command."""

from hwbench_mlflow.cli.main import main

if __name__ == "__main__":
    main()
