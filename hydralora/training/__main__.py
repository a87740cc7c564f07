"""`python -m hydralora.training --config training.json`."""

from hydralora.training.run import main

if __name__ == "__main__":
    main()
