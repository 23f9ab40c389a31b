# Snakemake's cache between runs. As it comes, it puts a folder *into* one that an earlier store left there: by another
# workflow that made the same at the same time, or by one that was killed half way. The second time it ends in an error.
import asyncio
import shutil

import snakemake.workflow
from snakemake.caching.local import OutputFileCache

from commbert.locks import opened, take


class OneAtATime(OutputFileCache):
    """Stores under a lock; what another workflow has stored meanwhile stays, what a killed one left half is replaced."""

    async def store(self, job):
        lock = self.path / "commbert.lock"
        fd = opened(lock)
        try:
            while not take(fd, lock):
                await asyncio.sleep(0.05)  # other jobs of this process go on
            if await self.exists(job):
                for output, _ in await self.get_outputfiles_and_cachefiles(job):
                    shutil.rmtree(output) if output.is_dir() else output.unlink()
                await self.fetch(job)
                return
            for _, entry in await self.get_outputfiles_and_cachefiles(job):
                if entry.is_dir():
                    shutil.rmtree(entry)
            await super().store(job)
        finally:
            os.close(fd)


snakemake.workflow.LocalOutputFileCache = OneAtATime
workflow.workflow_settings.cache = (
    workflow.workflow_settings.cache or []
)  # as --cache does
