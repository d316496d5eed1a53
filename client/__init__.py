"""A site's side: reads records, trains, seals. What leaves it goes through `partsong.client.seal`."""
