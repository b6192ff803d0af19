"""Generated from proto/hostport/v1 by `make proto`. Do not edit."""
