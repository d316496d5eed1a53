"""Who is who and who said what: keys and how they are kept, certificates, the charter, signed letters and parcels."""
