"""The finished adapters of a site: taken once they follow from the sums, kept, compared, rolled back."""
