"""One model's metrics on validation samples, and its predictions as files of the data set's official evaluation."""
