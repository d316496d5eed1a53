"""From a site's files to token arrays: read, check, encode, pad. No torch.

    files    JSONL, CSV, Parquet, saved dataset -> raw rows with the number a person would count
    opt_out  a raw row of somebody on the list -> nothing
    schema   raw row -> checked row, or an error that names file, row and field
    table    the checked rows of one source; its fingerprint
    encode   rows -> token ids and the positions that are learned; truncation is counted
    batch    records -> padded arrays of like length

Covers: no error text, name or log line made here holds the content of a record, a label found in it or its unit;
errors of the libraries underneath are replaced, not chained, because their texts quote the data.
Does not cover: what a caller does with the values; the counts of a report describe private records and stay local.
"""
