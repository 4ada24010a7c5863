"""Authors and titles of the papers that the library names, by arXiv number. The year follows from the number."""

from rl4llm.citations.authors import AUTHORS

_TITLES = {
    "1506.02438": "High-Dimensional Continuous Control Using Generalized Advantage Estimation",
    "1602.01783": "Asynchronous Methods for Deep Reinforcement Learning",
    "1707.06347": "Proximal Policy Optimization Algorithms",
    "1710.10044": "Distributional Reinforcement Learning with Quantile Regression",
    "1712.00378": "Time Limits in Reinforcement Learning",
    "1802.09477": "Addressing Function Approximation Error in Actor-Critic Methods",
    "1806.04613": "Improving Regression Performance with Distributional Losses",
    "1909.08593": "Fine-Tuning Language Models from Human Preferences",
    "1912.09729": "Mastering Complex Control in MOBA Games with Deep Reinforcement Learning",
    "2005.12729": "Implementation Matters in Deep Policy Gradients: A Case Study on PPO and TRPO",
    "2107.03374": "Evaluating Large Language Models Trained on Code",
    "2310.10505": (
        "ReMax: A Simple, Effective, and Efficient Reinforcement Learning Method for Aligning Large Language Models"
    ),
    "2401.16025": "Simple Policy Optimization",
    "2402.03300": "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
    "2402.14740": "Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in LLMs",
    "2403.03950": "Stop Regressing: Training Value Functions via Classification for Scalable Deep RL",
    "2404.16767": "REBEL: Reinforcement Learning via Regressing Relative Rewards",
    "2410.01679": "VinePPO: Refining Credit Assignment in RL Training of LLMs",
    "2501.03262": "REINFORCE++: Stabilizing Critic-Free Policy Optimization with Global Normalization",
    "2503.01491": "What's Behind PPO's Collapse in Long-CoT? Value Optimization Holds the Secret",
    "2503.14286": "Tapered Off-Policy REINFORCE: Stable and efficient reinforcement learning for LLMs",
    "2503.14476": "DAPO: An Open-Source LLM Reinforcement Learning System at Scale",
    "2503.20783": "Understanding R1-Zero-Like Training: A Critical Perspective",
    "2504.02546": "GPG: A Simple and Strong Reinforcement Learning Baseline for Model Reasoning",
    "2504.05118": "VAPO: Efficient and Reliable Reinforcement Learning for Advanced Reasoning Tasks",
    "2504.11343": "A Minimalist Approach to LLM Reasoning: from Rejection Sampling to Reinforce",
    "2504.14945": "Learning to Reason under Off-Policy Guidance",
    "2505.15311": "Trajectory Bellman Residual Minimization: A Simple Value-Based Method for LLM Reasoning",
    "2505.20686": "Accelerating RL for LLM Reasoning with Optimal Advantage Regression",
    "2505.22617": "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models",
    "2505.23585": "On-Policy RL with Optimal Reward Baseline",
    "2506.01939": (
        "Beyond the 80/20 Rule: High-Entropy Minority Tokens Drive Effective Reinforcement Learning for LLM Reasoning"
    ),
    "2506.13585": "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention",
    "2506.20520": "Asymmetric REINFORCE for off-Policy Reinforcement Learning: Balancing positive and negative rewards",
    "2507.18071": "Group Sequence Policy Optimization",
    "2507.20673": "Geometric-Mean Policy Optimization",
    "2508.07629": "Klear-Reasoner: Advancing Reasoning Capability via Gradient-Preserving Clipping Policy Optimization",
    "2508.08221": "Part I: Tricks or Traps? A Deep Dive into RL for LLM Reasoning",
    "2508.10751": "Pass@k Training for Adaptively Balancing Exploration and Exploitation of Large Reasoning Models",
    "2509.01720": "Succeed or Learn Slowly: Sample Efficient Off-Policy Reinforcement Learning for Mobile App Control",
    "2509.13232": "Single-stream Policy Optimization",
    "2509.20712": (
        "CE-GPPO: Coordinating Entropy via Gradient-Preserving Clipping Policy Optimization in Reinforcement Learning"
    ),
    "2509.22611": "Quantile Advantage Estimation for Entropy-Safe Reasoning",
    "2510.01656": "Asymmetric Proximal Policy Optimization: mini-critics boost LLM reasoning",
    "2510.13786": "The Art of Scaling Reinforcement Learning Compute for LLMs",
    "2510.18855": "Every Step Evolves: Scaling Reinforcement Learning for Trillion-Scale Thinking Model",
    "2511.04439": "CoRPO: Adding a Correctness Bias to GRPO Improves Generalization",
    "2511.20347": "Soft Adaptive Policy Optimization",
    "2512.03847": "DVPO: Distributional Value Modeling-based Policy Optimization for LLM Post-Training",
    "2512.05591": "Entropy Ratio Clipping as a Soft Global Constraint for Stable Reinforcement Learning",
    "2512.06547": "A-3PO: Accelerating Asynchronous LLM Training with Staleness-aware Proximal Policy Approximation",
    "2512.17008": "Turn-PPO: Turn-Level Advantage Estimation with PPO for Improved Multi-Turn RL in Agentic LLMs",
    "2601.03320": "Ratio-Variance Regularized Policy Optimization for Efficient LLM Fine-tuning",
    "2601.22718": "A Step Back: Prefix Importance Ratio Stabilizes Policy Optimization",
    "2602.02710": "Maximum Likelihood Reinforcement Learning",
    "2602.03584": "V0: A Generalist Value Model for Any Policy at State Zero",
    "2602.04879": "Rethinking the Trust Region in LLM Reinforcement Learning",
    "2602.10693": "VESPO: Variational Sequence-Level Soft Policy Optimization for Stable Off-Policy LLM Training",
    "2602.17616": "Stable Asynchrony: Variance-Controlled Off-Policy RL for LLMs",
    "2603.10848": "V0.5: Generalist Value Model as a Prior for Sparse RL Rollouts",
    "2604.08865": "SPPO: Sequence-Level PPO for Long-Horizon Reasoning Tasks",
    "2604.19485": "EVPO: Explained Variance Policy Optimization for Adaptive Critic Utilization in LLM Post-Training",
    "2605.07579": (
        "Your Language Model is Its Own Critic: Reinforcement Learning with Value Estimation from Actor's Internal "
        "States"
    ),
    "2605.13217": "GAGPO: Generalized Advantage Grouped Policy Optimization",
    "2605.26784": "Ratio-Variance Regularized Policy Optimization",
    "2607.07508": "Single-Rollout Asynchronous Optimization for Agentic Reinforcement Learning",
    "2608.02181": "Start Classifying: Categorical Critics for LLM Reinforcement Learning",
    "2608.16739": "Le Critique: Privileged Value Functions for LLM Reinforcement Learning",
    "2608.23566": "How to Train a Critic Stably and Efficiently",
    "2609.36802": "EasyPPO: Stabilizing the Critic Is Key",
    "2609.39247": "Trust the Critic More",
}

PAPERS = {number: (AUTHORS[number].replace(", ", " and "), title) for number, title in _TITLES.items()}
"""The author field of BibTeX and the title of each paper."""
