"""Results of the bench as a page and pictures: `foretoken report`."""
