# tuning: 4 jobs
#!/bin/bash

# Parameters
#SBATCH --array=0-3%3
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --job-name=xeval-digits
#SBATCH --mem=32GB
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=OUT/.sweep/logs/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --signal=USR2@90
#SBATCH --time=1440
#SBATCH --wckey=submitit

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output OUT/.sweep/logs/%A_%a_%t_log.out PYTHON -u -m submitit.core._submit OUT/.sweep/logs

# training and scoring: 4 jobs
#!/bin/bash

# Parameters
#SBATCH --array=0-3%3
#SBATCH --cpus-per-task=8
#SBATCH --dependency='afterany:<tuning>'
#SBATCH --gpus-per-node=1
#SBATCH --job-name=xeval-digits
#SBATCH --mem=32GB
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=OUT/.sweep/logs/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --signal=USR2@90
#SBATCH --time=1440
#SBATCH --wckey=submitit

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output OUT/.sweep/logs/%A_%a_%t_log.out PYTHON -u -m submitit.core._submit OUT/.sweep/logs

# comparing: 1 job
#!/bin/bash

# Parameters
#SBATCH --cpus-per-task=8
#SBATCH --dependency='afterany:<training-and-scoring>'
#SBATCH --job-name=xeval-digits
#SBATCH --mem=32GB
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=OUT/.sweep/logs/%j_0_log.out
#SBATCH --partition=gpu
#SBATCH --signal=USR2@90
#SBATCH --time=60
#SBATCH --wckey=submitit

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output OUT/.sweep/logs/%j_%t_log.out PYTHON -u -m submitit.core._submit OUT/.sweep/logs

.sweep/tuning/excon.explain_from_epoch-0-db7f88/digits-excon-s0  to do
.sweep/tuning/excon.explain_from_epoch-0-db7f88/digits-excon-s1  to do
.sweep/tuning/excon.explain_from_epoch-5-bd31d8/digits-excon-s0  to do
.sweep/tuning/excon.explain_from_epoch-5-bd31d8/digits-excon-s1  to do
digits-supcon-s0  to do
digits-supcon-s1  to do
digits-excon-s0  to do
digits-excon-s1  to do
8 runs in OUT
