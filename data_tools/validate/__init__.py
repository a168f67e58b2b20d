"""Finding what is broken in a data set: `checks` judges one object, `report` says and writes what was found."""
