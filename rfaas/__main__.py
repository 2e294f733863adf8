"""`python -m rfaas`: the `rfaas` command where its script is not on PATH."""

from rfaas.cli import main

if __name__ == "__main__":
    main(prog_name="rfaas")
