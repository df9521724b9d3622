"""What is described is what is answered: requests made from the description, good and bad, by schemathesis."""

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from conf.schema import DeployConfig
from serve.app import Application

EXAMPLES = 40
NOT_SAID = [positive_data_acceptance]  # OpenAPI cannot say that columns are of one length, or tensors of their shape


def test_what_is_described_is_what_is_answered(served) -> None:
    application = Application(DeployConfig(cluster=served.cfg.cluster, name=served.cfg.name))
    schema = schemathesis.openapi.from_asgi("/houses/openapi.json", application)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 10
    for operation in operations:
        takes_something = operation.body or operation.path_parameters
        for mode in GenerationMode if takes_something else [GenerationMode.POSITIVE]:

            @given(operation.as_strategy(generation_mode=mode))
            @settings(max_examples=EXAMPLES, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
            def check(case: Case) -> None:
                case.call_and_validate(excluded_checks=NOT_SAID)

            check()
    application.close()
