"""The arithmetic of differential privacy: what an event costs, which noise a budget needs, what choosing costs."""
