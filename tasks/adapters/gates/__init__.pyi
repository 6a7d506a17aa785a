from . import evidently as evidently, great_expectations as great_expectations, report_sample as report_sample
