"""Files, the Hub, what is kept between runs, and where a result comes from. Knows no model and no experiment."""
