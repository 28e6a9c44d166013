"""`python -m paymaster`."""

from paymaster.cli.main import main

if __name__ == "__main__":
    main()
