"""Goal-reaching environments; importing this package registers them with Gymnasium.

gbp/PushT-v0      push a T block to a pose (pymunk)
gbp/PointMaze-v0  a point mass in a U-shaped maze (MuJoCo)
gbp/Wall-v0       a dot that passes a door in a wall (numpy)
gbp/Rope-v0       push a rope into a shape (pymunk)
gbp/Granular-v0   push grains into a shape (pymunk)
"""

from gymnasium.envs.registration import register

__all__: list[str] = []

register(id="gbp/PushT-v0", entry_point="gbp_envs.pusht:PushTEnv", max_episode_steps=50)
register(
    id="gbp/PointMaze-v0",
    entry_point="gbp_envs.point_maze:PointMazeEnv",
    max_episode_steps=100,
)
register(id="gbp/Wall-v0", entry_point="gbp_envs.wall:WallEnv", max_episode_steps=100)
register(id="gbp/Rope-v0", entry_point="gbp_envs.rope:RopeEnv", max_episode_steps=20)
register(id="gbp/Granular-v0", entry_point="gbp_envs.granular:GranularEnv", max_episode_steps=20)
