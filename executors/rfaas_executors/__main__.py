"""`python -m rfaas_executors`: the agent of one slice."""

from rfaas_executors.command import main

if __name__ == "__main__":
    raise SystemExit(main())
