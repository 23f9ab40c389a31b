import pytest

from commbert import submission
from commbert.errors import SettingsError


@pytest.fixture
def submitted():
    """The environment of the jobs of a workflow whose configuration is A."""
    environment = {submission.SUBMITTED: "of an earlier workflow"}
    submission.agree_on_submission("A", is_main=True, environment=environment)
    return environment


def test_a_job_with_the_same_configuration_goes_on(submitted):
    submission.agree_on_submission("A", is_main=False, environment=submitted)


def test_a_job_with_another_configuration_is_refused(submitted):
    with pytest.raises(
        SettingsError, match=r"^config\.yaml \(or an overlay\) changed after .*finished stages are kept"
    ):
        submission.agree_on_submission("B", is_main=False, environment=submitted)


def test_a_job_with_other_code_is_refused(submitted, monkeypatch):
    monkeypatch.setattr(submission, "stages_digest", lambda: "other")
    with pytest.raises(SettingsError, match=r"^the code of commbert changed"):
        submission.agree_on_submission("A", is_main=False, environment=submitted)
    with pytest.raises(SettingsError, match=r"^config.* and the code of commbert changed"):
        submission.agree_on_submission("B", is_main=False, environment=submitted)


def test_a_job_that_gets_nothing_of_the_environment_is_not_checked():
    submission.agree_on_submission("A", is_main=False, environment={})


def test_the_code_of_every_stage_counts():
    from commbert.provenance import code_digest, stages_digest

    assert stages_digest() == stages_digest()
    assert code_digest("commbert.stages.train") != code_digest("commbert.stages.train", "commbert.stages.report")
