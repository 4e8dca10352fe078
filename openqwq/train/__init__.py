"""Training: pretraining, supervised fine-tuning, reinforcement learning, reward models.

Each stage is a function that changes a model in place: `pretrain.run_pretrain`, `sft.run_sft`, `rl.run_rl`,
`reward_model.run_reward_model`, all within the frame of `stage.StageContext`.
"""
