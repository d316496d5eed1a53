"""What coordinator and sites agree on: configuration, wire format, encodings, accounting. No torch, no flwr."""
